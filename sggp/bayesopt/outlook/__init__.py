"""Is it worth going on? What joint posterior paths say of the best there is, and of how much has been found."""

from sggp.bayesopt.outlook.answer import Figure, Found, Outlook, Within
from sggp.bayesopt.outlook.ask import Question, outlook
from sggp.bayesopt.outlook.conditions import Condition
from sggp.bayesopt.outlook.recalibrate import Recalibration

__all__ = ["Condition", "Figure", "Found", "Outlook", "Question", "Recalibration", "Within", "outlook"]
